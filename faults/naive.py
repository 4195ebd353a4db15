"""What people do without us: compare with a reference run, allclose at 1e-2 and cosine at 0.999, blame the first site that fails."""

import numpy as np


def first_failing_site(reference, subject):
    """Both: {(step, site): array} in order of execution. Returns the first site outside the tolerances, None where there is none."""
    for key, ours in reference.items():
        theirs = subject.get(key)
        if theirs is None or theirs.size != ours.size:
            continue
        a, b = ours.astype(np.float64).reshape(-1), theirs.astype(np.float64).reshape(-1)
        shown = np.isfinite(a) & np.isfinite(b) & (a > -1e30) & (b > -1e30)
        a, b = a[shown], b[shown]
        length = np.linalg.norm(a) * np.linalg.norm(b)
        cosine = 1.0 if length == 0 else float(a @ b / length)
        if cosine < 0.999 or not np.allclose(b, a, rtol=1e-2, atol=1e-2):
            return key[1]
    return None
