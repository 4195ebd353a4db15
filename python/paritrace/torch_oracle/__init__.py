"""Hugging Face's own modelling code as the oracle: any model that transformers loads, without an architecture file of ours."""
