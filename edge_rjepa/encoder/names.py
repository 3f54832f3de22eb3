"""What an exported encoder is called and made of: its format, forms, inputs and outputs.

docs/encoder.md says what each of them means. This module imports nothing heavy, so that the command
line can offer FORMS.
"""

FORMAT, VERSION = "edge_rjepa", 3

FORMS = STEP, SEQUENCE, PATCHES, DESCRIPTOR = ("step", "sequence", "patches", "descriptor")

# Inputs: a file takes windows, or features where it holds no retina; a descriptor takes pictures.
WINDOW, FEATURES, PICTURE = "window", "features", "picture"
EFFERENCE, STATE, EMBEDDING_BEFORE = "efference", "state", "embedding_before"

OUTPUTS = EMBEDDING, WHITENED, MEMORY, NEXT_STATE, PREDICTION, SURPRISE = (
    "embedding",
    "whitened",
    "memory",
    "next_state",
    "prediction",
    "surprise",
)

# Outputs of a descriptor; the last two only where names were taught.
DESCRIPTION, LIKENESS, SCORES = "description", "likeness", "scores"
