"""`paritrace tokens`: everything that two tokenizers do differently is found, nothing else, and the reason is the one injected.

What differs is decided by the tokenizers themselves, called here directly; reasons by what was edited in a tokenizer.json or
a GGUF's metadata.
"""

import json
import random
from xml.etree import ElementTree

import gguf
import llama_cpp
import numpy as np
import pytest
from paritrace.tokens.pieces import cut_by_merges, from_letters
from tokenizers import Tokenizer

SCRIPTS = {
    "latin": "the quick brown fox jumps over lazy dogs once upon a time there was little girl named lily".split(),
    "accents": "naïve café Ærøskøbing señor Straße coöperate fiancée".split(),
    "decomposed": "cafe\u0301 nai\u0308ve A\u030angstro\u0308m".split(),
    "cyrillic": "привет мир однажды жила девочка".split(),
    "greek": "καλημέρα κόσμε ἀρχή".split(),
    "han": "你好世界 今天 天气 很好 東京都 に住む".split(),
    "kana": "こんにちは カタカナ ﾊﾝｶｸ".split(),
    "hangul": "안녕하세요 세계".split(),
    "arabic": "مرحبا بالعالم السَّلام".split(),
    "devanagari": "नमस्ते दुनिया क्षेत्र".split(),
    "thai": "สวัสดีชาวโลก ภาษาไทย".split(),
    "code": ["def f(x):", "    return x**2", "a[i]+=1;", "<html>", "// end", "x==y", "\t\tif", "0x1F", "1_000_000", "{}();"],
    "numbers": ["3.14159", "1234567890", "①②③", "²³", "Ⅷ", "٣٤٥", "1e-5"],
    "emoji": ["🎉", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "☕️", "🇩🇪", "❤"],
    "odd": ["\u00a0", "\u200b", "\u3000", "\ufeff", "\u2028", "\r", "\x00", "\x7f", "\u0301", "\U000e0041", "  ", "'s", "'RE"],
}  # fmt: skip
BROKEN = [
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x8e",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\x80\x80",
    b"\xf5\x80\x80\x80",
]


def lines_of_all_kinds(count, broken, seed=11):
    """Lines in bytes, of mixed scripts, code and emoji; every tenth is no UTF-8 where `broken`."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        words = [rng.choice(SCRIPTS[rng.choice(list(SCRIPTS))]) for _ in range(rng.randint(1, 9))]
        raw = rng.choice(["", " ", "  "]).join(words) if index % 3 else " ".join(words)
        raw = raw.replace("\n", " ").encode()
        if broken and index % 10 == 0:
            place = rng.randint(0, len(raw))
            raw = raw[:place] + rng.choice(BROKEN) + raw[place:]
        made.append(raw)
    return made


@pytest.fixture(scope="session")
def base(tmp_path_factory, write_gguf, model_folder):
    """(tokenizer.json as a dict, the GGUF of the same model)."""
    path = tmp_path_factory.mktemp("tokens") / "base.gguf"
    write_gguf(model_folder, path, "f16")
    return json.loads((model_folder / "tokenizer.json").read_text()), path


def write_lines(path, lines):
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_tokenizer(path, tokenizer):
    path.write_text(json.dumps(tokenizer))
    return path


def edited_gguf(source, path, **changes):
    """A vocabulary-only copy of a GGUF with keys of its metadata changed (by the name behind the last dot)."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changes.get(key.split(".")[-1], field.contents())
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kind)
    writer.add_tensor("token_embd.weight", np.zeros((1536, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# llama.cpp throws on these from C++, which ends the process: what the library says is that it has no answer.
ABORTS = b"\xf5\x80\x80\x80"


def by_hand(tokenizer, gguf_path, lines):
    """What each engine's own library says: ids of every line, Hugging Face's and llama.cpp's."""
    theirs = llama_cpp.Llama(str(gguf_path), vocab_only=True, verbose=False)
    own = Tokenizer.from_file(str(tokenizer))
    hf = [own.encode(raw.decode("utf-8", errors="replace")).ids for raw in lines]
    return hf, [None if ABORTS in raw else theirs.tokenize(raw, add_bos=True, special=True) for raw in lines]


def compared(paritrace_cli, *arguments):
    done = paritrace_cli("tokens", *arguments, "--json", "-")
    assert done.returncode in (0, 1, 3), done.stderr
    result = json.loads(done.stdout)
    assert {0: "identical", 1: "diverged", 3: "incomparable"}[done.returncode] == result["verdict"]
    return result


def differing(result):
    return {entry["line"] - 1 for entry in result["differences"]}


def reasons(result):
    return {(cause["id"], cause["reason"]) for cause in result["causes"]}


def test_a_thousand_lines_all_found_none_invented(paritrace_cli, base, tmp_path, model_folder):
    lines = lines_of_all_kinds(1000, broken=True)
    result = compared(
        paritrace_cli, model_folder, base[1], "--file", write_lines(tmp_path / "lines", lines)
    )  # fmt: skip
    hf, theirs = by_hand(model_folder / "tokenizer.json", base[1], lines)
    expected = {index for index, pair in enumerate(zip(hf, theirs)) if pair[0] != pair[1]}
    assert differing(result) == expected
    assert result["texts"]["total"] == 1000 and result["texts"]["not_utf8"] == 100
    # Only broken UTF-8 is read otherwise by the two libraries, and it is called that.
    broken = {index for index, raw in enumerate(lines) if raw != raw.decode("utf-8", errors="replace").encode()}
    assert expected and expected <= broken
    assert reasons(result) == {("tokens.ids", "utf8"), ("tokens.ids", "refused")}
    refused = {entry["line"] - 1 for entry in result["differences"] if entry["reason"] == "refused"}
    assert refused == {index for index, raw in enumerate(lines) if ABORTS in raw}


def inject_bos(tokenizer, changes):
    changes["add_bos_token"] = False


def inject_eos(tokenizer, changes):
    changes["add_eos_token"] = True


def inject_merge(tokenizer, changes):
    del tokenizer["model"]["merges"][40]


def inject_merge_order(tokenizer, changes):
    merges = tokenizer["model"]["merges"]
    merges[3], merges[400] = merges[400], merges[3]


def inject_nfc(tokenizer, changes):
    tokenizer["normalizer"] = {"type": "NFC"}


def inject_lower(tokenizer, changes):
    tokenizer["normalizer"] = {"type": "Lowercase"}


def inject_space(tokenizer, changes):
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True


def inject_added(tokenizer, changes):
    entry = tokenizer["added_tokens"][0] | {"id": 1536, "content": "def", "special": False}
    tokenizer["added_tokens"].append(entry)


def inject_swapped_ids(tokenizer, changes):
    vocab = tokenizer["model"]["vocab"]
    vocab["Ġt"], vocab["Ġa"] = vocab["Ġa"], vocab["Ġt"]


def inject_split(tokenizer, changes):
    changes["pre"] = "llama-bpe"


@pytest.mark.parametrize(
    "inject, cause, reason",
    [
        (inject_bos, "tokens.bos", "bos"),
        (inject_eos, "tokens.ids", "eos"),
        (inject_merge, "tokens.ids", "merges"),
        (inject_merge_order, "tokens.ids", "merges"),
        (inject_nfc, "tokens.ids", "normalisation"),
        (inject_lower, "tokens.ids", "normalisation"),
        (inject_space, "tokens.ids", "normalisation"),
        (inject_added, "tokens.ids", "added_token"),
        (inject_swapped_ids, "tokens.ids", "ids"),
        (inject_split, "tokens.ids", "pre_tokenizer"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_injected_difference_is_found_on_every_line_and_named(paritrace_cli, base, tmp_path, inject, cause, reason):
    tokenizer, changes = json.loads(json.dumps(base[0])), {}
    inject(tokenizer, changes)
    file = write_tokenizer(tmp_path / "tokenizer.json", tokenizer)
    edited = edited_gguf(base[1], tmp_path / "edited.gguf", **changes)
    lines = lines_of_all_kinds(150, broken=False, seed=5)
    result = compared(paritrace_cli, file, edited, "--file", write_lines(tmp_path / "lines", lines))
    hf, theirs = by_hand(file, edited, lines)
    expected = {index for index, pair in enumerate(zip(hf, theirs)) if pair[0] != pair[1]}
    assert expected and differing(result) == expected
    assert reasons(result) == {(cause, reason)}


def test_two_differences_on_one_line_both_stand(paritrace_cli, base, tmp_path):
    tokenizer = json.loads(json.dumps(base[0]))
    inject_lower(tokenizer, {})
    file = write_tokenizer(tmp_path / "tokenizer.json", tokenizer)
    edited = edited_gguf(base[1], tmp_path / "edited.gguf", add_bos_token=False)
    result = compared(paritrace_cli, file, edited, "--text", "Once upon a time")
    assert reasons(result) == {("tokens.bos", "bos"), ("tokens.ids", "normalisation")}
    assert "lower case" in result["differences"][1]["statement"]


def test_sentencepiece_against_llamacpp(paritrace_cli, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "corpus"
    text.write_text("\n".join(" ".join(SCRIPTS["latin"][i:] + SCRIPTS["latin"][:i]) for i in range(12)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=320, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    size = model.get_piece_size()
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(size)
    ]
    path = tmp_path / "sp.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(i) for i in range(size)])
    writer.add_token_scores([model.get_score(i) for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    lines = lines_of_all_kinds(200, broken=True, seed=3)
    result = compared(paritrace_cli, tmp_path / "sp.model", path, "--file", write_lines(tmp_path / "lines", lines))
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    expected = {
        index
        for index, raw in enumerate(lines)
        if model.encode(raw.decode("utf-8", errors="replace")) != theirs.tokenize(raw, add_bos=True, special=True)
    }
    assert differing(result) == expected


def trace_of(path, tokens):
    path.mkdir()
    header = {"format": "paritrace/1", "engine": {"name": "own", "version": "1"}, "status": "complete"}
    (path / "trace.json").write_text(json.dumps(header | {"run": {"tokens": tokens} if tokens else {}}))
    (path / "index.jsonl").write_text("")
    return path


@pytest.mark.parametrize(
    "subject, code, cause",
    [
        ([[17, 403, 9, 77]], 0, None),
        ([[0, 17, 403, 9, 77]], 1, "tokens.bos"),
        ([[2, 2, 17, 403, 9, 77]], 1, "tokens.shift"),
        ([[17, 404, 9, 77]], 1, "tokens.ids"),
        (None, 3, None),
    ],
)
def test_two_traces(paritrace_cli, tmp_path, model_folder, subject, code, cause):
    reference = trace_of(tmp_path / "a", [[17, 403, 9, 77]])
    result_path = tmp_path / "result.json"
    done = paritrace_cli(
        "tokens", reference, trace_of(tmp_path / "b", subject), "--tokenizer", model_folder, "--json", result_path
    )
    assert done.returncode == code, done.stderr
    result = json.loads(result_path.read_text())
    assert [entry["id"] for entry in result["causes"]] == ([cause] if cause else [])
    if cause == "tokens.ids":
        assert result["differences"][0]["reference"][1]["text"] == Tokenizer.from_file(
            str(model_folder / "tokenizer.json")
        ).decode([403])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["none.json", "none.json", "--text", "a"], "none.json: expected a tokenizer, found No such file"),
        (["MODEL", "MODEL"], "expected --text or --file for two tokenizers, found neither"),
        (["MODEL", "broken.gguf", "--text", "a"], "broken.gguf"),
    ],
)
def test_bad_input_is_one_line(paritrace_cli, tmp_path, model_folder, arguments, said):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40)
    done = paritrace_cli("tokens", *[str(model_folder) if part == "MODEL" else part for part in arguments])
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_markdown_and_quiet(paritrace_cli, tmp_path, model_folder, base):
    edited = edited_gguf(base[1], tmp_path / "edited.gguf", add_bos_token=False)
    done = paritrace_cli("tokens", model_folder, edited, "--text", "a | b", "--md", "-")
    assert done.returncode == 1 and "| `tokens.bos` | bos | 1 | 1 |" in done.stdout
    done = paritrace_cli("tokens", model_folder, edited, "--text", "a | b", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_html_junit_and_sarif(paritrace_cli, tmp_path, model_folder, base):
    """Of two lines one differs: every form says so."""
    tokenizer = json.loads(json.dumps(base[0]))
    inject_lower(tokenizer, {})
    file = write_tokenizer(tmp_path / "tokenizer.json", tokenizer)
    texts = ["--text", "<b> lower", "--text", "Upper"]
    forms = ["--html", "r.html", "--junit", "r.xml", "--sarif", "r.sarif", "--quiet"]
    assert paritrace_cli("tokens", file, base[1], *texts, *forms).returncode == 1
    suite = ElementTree.parse(tmp_path / "r.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (found,) = json.loads((tmp_path / "r.sarif").read_text())["runs"][0]["results"]
    assert "lower case" in found["message"]["text"] and found["ruleId"] == "paritrace.tokens"
    page = (tmp_path / "r.html").read_text()
    assert "lower case" in page and 'src="http' not in page and 'href="http' not in page


def test_merges_as_the_library_does_them(model_folder):
    """Our simulation of BPE, which reasons rest on, against the library on plain words."""
    path = model_folder / "tokenizer.json"
    merges = json.loads(path.read_text())["model"]["merges"]
    ranks = {tuple(map(from_letters, pair)): rank for rank, pair in enumerate(merges)}
    tokenizer = Tokenizer.from_file(str(path))
    for word in SCRIPTS["latin"] + SCRIPTS["cyrillic"] + SCRIPTS["han"]:
        pieces, _ = cut_by_merges([bytes([byte]) for byte in word.encode()], ranks)
        expected = [from_letters(piece) for piece in tokenizer.encode(word, add_special_tokens=False).tokens]
        assert pieces == expected
