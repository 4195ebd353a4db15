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
        file = self.out / f"{self.name}-{kind or kinds[0]}.gguf"
        if not file.exists():
            subjects.run([subjects.sys.executable, subjects.ROOT / "models" / "write_gguf.py", folder, file,
                         "--type", kind or kinds[0]])  # fmt: skip
        return file

    def tokens(self):
        if self.ids:
            return self.ids
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(subjects.ROOT / self.plan["model"] / "tokenizer.json"))
        return tokenizer.encode(self.plan["text"]).ids[: self.plan["tokens"]]

    def trace(self, mistakes=(), kind=None):
        """Records a run; returns its trace."""
        folder = self.out / ("clean" if not mistakes else "+".join(mistakes))
        shutil.rmtree(folder, ignore_errors=True)
        self.record(self.model_file(kind), self.tokens(), self.plan["decode"], mistakes, folder)
        return folder

    def ask(self, mistakes=(), kind=None):
        """Records a run with `mistakes` and returns the Answer of `paritrace diagnose`."""
        trace = self.trace(mistakes, kind)
        file = trace / "diagnosis.json"
        subjects.paritrace("diagnose", trace, "--model", self.model_file(kind), "--json", file, "--quiet")
        diagnosis = json.loads(file.read_text())
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
        layers = [int(only)] if only else mistake.get("layers", range(self.plan["layers"]))
        recorded = {json.loads(line)["site"] for line in (self.out / mistake["id"] / "index.jsonl").open()}
        every = {f"layers.{layer}.{site}" for layer in layers for site in mistake["sites"]}
        top = set(mistake["sites"]) if not only or only == "0" else set()
        return mistake.get("cause", id), (every | top) & recorded
