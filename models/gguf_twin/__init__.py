"""Hugging Face folders as GGUF: what models/write_gguf.py is made of."""
