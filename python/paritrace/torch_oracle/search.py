"""Which known mistake explains a site? None proposed yet: a site over its noise floor is unknown."""


def explain(replay, site, stats, known):
    if not stats["flagged"]:
        return None
    cause = {
        "id": "unknown",
        "confidence": 0.0,
        "statement": f"the error is {stats['ratio']:.3g} times the noise, and no known mistake explains it",
        "fix": "look at this op with the recorded inputs; its replay in f64 is what it should give",
    }
    where = {name: list(stats[name]) for name in ("tokens", "heads", "channels") if stats[name]}
    return {"cause": cause, "alternatives": [], "where": where}
