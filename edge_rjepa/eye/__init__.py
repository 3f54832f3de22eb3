"""Where to look and what is seen there: gaze, retina, and the head they sit on."""
