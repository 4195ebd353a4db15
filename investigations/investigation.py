"""One investigation: an engine that is run rightly and with each of its mistakes, and every run diagnosed.

result = Investigation("tinyllama", out).run_mistake(mistake)
"""

import json
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import subjects

HERE = Path(__file__).resolve().parent


@dataclass
class Answer:
    """What `diagnose` said of one run."""

    mistakes: list
    verdict: str
    named: dict = field(default_factory=dict)  # cause id -> sites, in order of execution
    found: dict = field(default_factory=dict)  # cause id -> what its first defect found
    statement: str = ""
    routing: list = field(default_factory=list)
    seconds: float = 0.0


def plan_of(name):
    return tomllib.loads((HERE / f"{name}.toml").read_text())


def names():
    return sorted(path.stem for path in HERE.glob("*.toml"))


class Investigation:
    """name: a plan beside this file; out: a folder for models, programs and traces; model: another model than the plan's.

    ids: token ids in place of the plan's text, which needs the plan's tokenizer
    """

    def __init__(self, name, out, model=None, ids=None):
        self.name, self.plan, self.out, self.ids = name, plan_of(name), Path(out), ids
        self.out.mkdir(parents=True, exist_ok=True)
        self.model = Path(model) if model else None
        self.record = subjects.ENGINES[self.plan["engine"]](self.out)

    def model_file(self, kind=None):
        """The file or folder that the engine runs, of type `kind` where there are several."""
        if self.model:
            return self.model
        folder = subjects.ROOT / self.plan["model"]
        if not folder.is_dir():
            family = folder.name.removeprefix("paritrace-")
            raise subjects.EngineError(f"{self.plan['model']} is not there: python models/train.py {family} makes it")
        kinds = self.plan.get("types")
        if not kinds:
            return folder
        return self.gguf(kind or kinds[0])

    def gguf(self, kind):
        """The plan's model as GGUF of type `kind`."""
        file = self.out / f"{self.name}-{kind}.gguf"
        subjects.write_gguf(subjects.ROOT / self.plan["model"], file, kind)
        return file

    def tokens(self):
        return self.ids or self.encode(self.plan["text"])[: self.plan["tokens"]]

    def long_prompt(self):
        """As many tokens as make a trend or a close call likely: the plan's `long` text."""
        return self.ids or self.encode(self.plan["long"])

    def encode(self, text):
        """Token ids by the model's own tokenizer, as its users feed them."""
        if self.model and self.model.is_file():
            return subjects.tokens_of_gguf(self.model, text)
        from tokenizers import Tokenizer

        folder = self.model or subjects.ROOT / self.plan["model"]
        return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids

    def trace(self, mistakes=(), kind=None, *, model=None, tokens=None, folder=None, decode=None):
        """Records a run; returns its trace, by default named after the mistakes."""
        folder = self.out / (folder or "+".join(mistakes) or "clean")
        shutil.rmtree(folder, ignore_errors=True)
        decode = self.plan["decode"] if decode is None else decode
        self.record(model or self.model_file(kind), tokens or self.tokens(), decode, mistakes, folder)
        return folder

    def decode_of(self, mistake):
        """How many steps a run with one entry of the plan's mistakes goes on."""
        return mistake.get("decode", self.plan.get("decode_mistakes", self.plan["decode"]))

    def oracle(self, arithmetic, tokens, folder):
        """The model run by our own executor; returns the trace."""
        out = self.out / folder
        shutil.rmtree(out, ignore_errors=True)
        subjects.paritrace(
            "run", self.model_file(), "--tokens", subjects.commas(tokens), "-o", out, "--arithmetic", arithmetic
        )
        return out

    def diagnose(self, trace, model=None, kind=None):
        """The JSON of `paritrace diagnose`."""
        return json.loads(
            subjects.paritrace("diagnose", trace, "--model", model or self.model_file(kind), "--json", "-")
        )

    def diff(self, reference, trace):
        """The JSON of `paritrace diff`."""
        return json.loads(subjects.paritrace("diff", reference, trace, "--json", "-", allowed=(0, 1, 3)))

    def weights(self, file, folder=None):
        """The JSON of `paritrace weights`, against the plan's folder where no other is given."""
        folder = folder or subjects.ROOT / self.plan["model"]
        return json.loads(subjects.paritrace("weights", folder, file, "--json", "-"))

    @staticmethod
    def values(trace, site):
        import paritrace

        return paritrace.open_trace(trace).values(site)

    def rms(self, trace, site):
        values = self.values(trace, site).astype(float)
        return float((values * values).mean() ** 0.5)

    @staticmethod
    def layers(trace):
        """How many layers a trace has."""
        sites = [json.loads(line)["site"] for line in (trace / "index.jsonl").open() if '"site"' in line]
        return 1 + max(int(site.split(".")[1]) for site in sites if site.startswith("layers."))

    def ask(self, mistakes=(), kind=None, decode=None):
        """Records a run with `mistakes` and returns the Answer of `paritrace diagnose`."""
        diagnosis = self.diagnose(self.trace(mistakes, kind, decode=decode), kind=kind)
        answer = Answer(list(mistakes), diagnosis["verdict"], routing=diagnosis["routing"])
        for defect in diagnosis["defects"]:
            cause = defect["cause"]
            answer.named.setdefault(cause["id"], []).append(defect["site"])
            answer.found.setdefault(cause["id"], cause.get("found"))
            answer.statement = answer.statement or cause["statement"]
        return answer

    def expected(self, mistake):
        """(cause, sites) of one entry of the plan's mistakes, at every layer or at the one behind @.

        A layer without the site (a mixture in every second one) is left to what was recorded.
        """
        id, _, only = mistake["id"].partition("@")
        layers = [int(only)] if only else mistake.get("layers", range(self.layers(self.out / mistake["id"])))
        recorded = {json.loads(line)["site"] for line in (self.out / mistake["id"] / "index.jsonl").open()}
        every = {f"layers.{layer}.{site}" for layer in layers for site in mistake["sites"]}
        top = set(mistake["sites"]) if not only or only == "0" else set()
        return mistake.get("cause", id), (every | top) & recorded
