"""What is right about a diagnosis, and the tables of the bench."""

import collections
import statistics
from dataclasses import dataclass

from cases import Case

import models


@dataclass
class Outcome:
    case: Case
    verdict: str
    defects: list
    seconds: float
    naive_site: str | None


def is_near(cause, expected):
    """Is the parameter that was found the one that was put in? Within 2 % of it, or of its distance to the right one."""
    found, right = cause.get("found"), cause.get("expected")
    if expected is None:
        return True
    if isinstance(expected, str):
        return found == expected
    scale = max(abs(expected), abs(right - expected) if isinstance(right, (int, float)) else 0)
    return isinstance(found, (int, float)) and abs(found - expected) <= 0.02 * scale


def judge(outcome):
    """{"verdict", "site", "cause", "all", "false_name", ...}: booleans; None where it does not apply. {"alarm"} of a clean run."""
    case, defects = outcome.case, outcome.defects
    if not case.causes:
        clean = outcome.verdict in ("identical", "within_noise") and not defects
        return {"alarm": not clean, "naive_alarm": outcome.naive_site is not None}
    right_sites = {site for _, sites, _ in case.causes for site in sites}
    first = defects[0] if defects else None
    known = not any("unknown" in ids for ids, _, _ in case.causes)
    named = {(defect["site"], defect["cause"]["id"]) for defect in defects}

    def is_right(defect):
        return any(
            defect["site"] in sites and defect["cause"]["id"] in ids and is_near(defect["cause"], found)
            for ids, sites, found in case.causes
        )

    first_sites = case.causes[0][1] + (case.causes[1][1] if len(case.causes) > 1 else [])
    return {
        "verdict": outcome.verdict == "diverged",
        "site": first is not None and first["site"] in first_sites,
        "cause": None if not known else first is not None and is_right(first),
        "all": None
        if len(case.causes) < 2
        else all(any(site in sites and id in ids for site, id in named) for ids, sites, _ in case.causes),
        "false_name": any(
            not is_right(defect) and defect["cause"]["id"] != "unknown" and defect["cause"]["confidence"] >= 0.5
            for defect in defects
        ),
        "elsewhere": any(defect["site"] not in right_sites for defect in defects),
        "naive_site": outcome.naive_site in first_sites,
        "naive_verdict": outcome.naive_site is not None,
    }


def describe(outcome):
    said = [
        f"{d['site']}={d['cause']['id']}"
        + (f"({d['cause']['found']})" if d["cause"].get("found") is not None else "")
        + f" {d['cause']['confidence']:.2f}"
        for d in outcome.defects[:6]
    ]
    return f"{outcome.verdict}: {', '.join(said)}{', …' if len(outcome.defects) > 6 else ''}"


def share(values):
    values = [value for value in values if value is not None]
    return f"{sum(values)} of {len(values)} ({100 * sum(values) / len(values):.1f} %)" if values else "-"


def count(values):
    return sum(bool(value) for value in values)


def marks_of(key, rows):
    return [marks.get(key) for _, marks in rows]


def wrong_marks(marks):
    """What of a run counts as a mistake of ours."""
    wrong = [key for key in ("verdict", "site", "cause", "all") if marks.get(key) is False]
    return wrong + [key for key in ("false_name", "elsewhere", "alarm") if marks.get(key)]


def print_summary(faulty, clean):
    real = sorted({number for outcome, _ in faulty for number in outcome.case.real})
    copies = count(outcome.case.real for outcome, _ in faulty)
    outside = count("unknown" in ids for outcome, _ in faulty for ids, _, _ in outcome.case.causes)
    print(
        f"\n{len(faulty)} faults ({copies} of them copies of {len(real)} real bugs, {outside} without a name that must be given), "
        f"{len(clean)} clean runs\n"
    )
    print("| | paritrace | naive: allclose 1e-2, cosine 0.999 |\n|---|---|---|")
    print(f"| verdict | {share(marks_of('verdict', faulty))} | {share(marks_of('naive_verdict', faulty))} |")
    print(f"| first defect's site | {share(marks_of('site', faulty))} | {share(marks_of('naive_site', faulty))} |")
    print(f"| cause first | {share(marks_of('cause', faulty))} | 0 |")
    print(f"| both of two defects | {share(marks_of('all', faulty))} | 0 |")
    print(f"| confident false names | {count(marks_of('false_name', faulty))} | - |")
    print(f"| runs with a defect elsewhere | {count(marks_of('elsewhere', faulty))} | - |")
    alarms = [f"{count(marks_of(key, clean))} of {len(clean)}" for key in ("alarm", "naive_alarm")]
    print(f"| false alarms | {alarms[0]} | {alarms[1]} |")
    print(f"| median time | {statistics.median(o.seconds for o, _ in [*faulty, *clean]):.2f} s | - |")


def print_groups(title, key, judged):
    """A row for each value of key(outcome): figures of its faults and its clean runs."""
    groups = collections.defaultdict(list)
    for row in judged:
        groups[key(row[0])].append(row)
    print(
        f"\n| {title} | faults | verdict | site | cause | false names | elsewhere | clean runs | false alarms | naive: site, alarms | median |"
    )
    print("|---" * 11 + "|")
    for name, rows in sorted(groups.items()):
        faulty, clean = [r for r in rows if r[0].case.causes], [r for r in rows if not r[0].case.causes]
        percents = {mark: short(marks_of(mark, faulty)) for mark in ("verdict", "site", "cause", "naive_site")}
        print(
            f"| {name} | {len(faulty)} | {percents['verdict']} | {percents['site']} | {percents['cause']} "
            f"| {count(marks_of('false_name', faulty))} | {count(marks_of('elsewhere', faulty))} | {len(clean)} "
            f"| {count(marks_of('alarm', clean))} | {percents['naive_site']}, {count(marks_of('naive_alarm', clean))} "
            f"| {statistics.median(o.seconds for o, _ in rows):.2f} s |"
        )


def short(values):
    values = [value for value in values if value is not None]
    return f"{100 * sum(values) / len(values):.4g} %" if values else "-"


def complain(outcome):
    """Prints a run that was judged wrongly."""
    if wrong := wrong_marks(judge(outcome)):
        print(f"! {outcome.case.name}: {', '.join(wrong)}\n    {describe(outcome)}", flush=True)


def report(outcomes):
    """Prints the tables; returns [(outcome, marks)]."""
    judged = [(outcome, judge(outcome)) for outcome in outcomes]
    faulty = [(o, m) for o, m in judged if o.case.causes]
    clean = [(o, m) for o, m in judged if not o.case.causes]
    print_summary(faulty, clean)
    print_groups("engine", lambda o: o.case.engine, judged)
    print_groups("architecture", lambda o: models.SHAPES[o.case.model].architecture, judged)
    print_groups("arithmetic", lambda o: o.case.arithmetic, judged)
    print_groups("recorded", lambda o: o.case.recorded, judged)
    by_cause = collections.defaultdict(list)
    for outcome, marks in faulty:
        if len(outcome.case.causes) == 1:
            ids = outcome.case.causes[0][0]
            by_cause["unknown" if "unknown" in ids else sorted(ids)[0]].append(marks)
    print("\n| cause | runs | site | named |\n|---|---|---|---|")
    for cause, rows in sorted(by_cause.items()):
        print(f"| `{cause}` | {len(rows)} | {share([r['site'] for r in rows])} | {share([r['cause'] for r in rows])} |")
    return judged
