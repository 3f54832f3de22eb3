"""What an exported encoder is called and made of: its format, forms, inputs and outputs.

docs/encoder.md says what each of them means. This module imports nothing heavy, so that the command
line can offer FORMS.
"""

FORMAT, VERSION = "edge_rjepa", 2

FORMS = STEP, SEQUENCE, PATCHES = ("step", "sequence", "patches")

# Inputs: a file takes windows, or features where it holds no retina.
WINDOW, FEATURES = "window", "features"
EFFERENCE, STATE, EMBEDDING_BEFORE = "efference", "state", "embedding_before"

OUTPUTS = EMBEDDING, MEMORY, NEXT_STATE, PREDICTION, SURPRISE = (
    "embedding",
    "memory",
    "next_state",
    "prediction",
    "surprise",
)
