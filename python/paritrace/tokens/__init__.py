"""`paritrace tokens`: whether two traces, or two tokenizers, agree on the token ids of a text, and why not."""
