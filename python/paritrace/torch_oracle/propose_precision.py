"""A step that Hugging Face keeps in f32, run in the narrow type."""

import torch

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis


def propose(question):
    """In bf16 and f16: what Hugging Face keeps in f32 inside a module, left in the narrow type."""
    if question.site.storage not in ("bf16", "f16"):
        return
    narrow = {"bf16": torch.bfloat16, "f16": torch.float16}[question.site.storage]
    for path in question.nearby:

        def make():
            def see(function, args, kwargs, tap):
                wide = function is torch.Tensor.float or torch.float32 in args or torch.float32 in kwargs.values()
                if not wide or not args or not isinstance(args[0], torch.Tensor) or args[0].dtype != narrow:
                    return None
                if function is torch.Tensor.float:
                    return args[0]
                args = tuple(narrow if x is torch.float32 else x for x in args)
                return function(*args, **{key: narrow if x is torch.float32 else x for key, x in kwargs.items()})

            return see

        yield Hypothesis(
            "precision", edits.calls(frozenset([path]), make), f"{path} computes in {question.site.storage} what is to be computed in f32",
            "run that step in f32", "f32", f"{question.site.storage}", sharp=True, quiet=True,
        )  # fmt: skip
