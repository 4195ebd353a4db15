"""What each engine and feature needs of other packages: asked by `doctor` and `sweep`, before anything is imported."""

import importlib.util

# name -> (module, distribution) pairs, all of them needed
ENGINES = {
    "hf": [("torch", "torch"), ("transformers", "transformers"), ("safetensors", "safetensors")],
    "torch": [("torch", "torch")],
    "llamacpp": [("llama_cpp", "llama-cpp-python")],
    "onnx": [("onnx", "onnx"), ("onnxruntime", "onnxruntime")],
    "jax": [("jax", "jax")],
}
FEATURES = {
    "tokens of tokenizer.json": [("tokenizers", "tokenizers")],
    "tokens of SentencePiece": [("sentencepiece", "sentencepiece")],
    "tokens of GGUF": [("llama_cpp", "llama-cpp-python")],
    "sweep --ray": [("ray", "ray")],
    "pytest plugin": [("pytest", "pytest")],
}


def missing(needed):
    """The distributions of (module, distribution) pairs that are not installed."""
    return [distribution for module, distribution in needed if importlib.util.find_spec(module) is None]
