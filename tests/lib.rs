//! Black-box tests of the workspace as a whole; they live in `workspace/`.
