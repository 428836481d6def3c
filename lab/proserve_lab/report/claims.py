"""The papers' claims beside what comes out here."""

from proserve_lab.report.claim import Claim, Finding, Verdict
from proserve_lab.report.markdown import table
from proserve_lab.report.proserve_claims import PROSERVE_CLAIMS
from proserve_lab.report.results import Results
from proserve_lab.report.rival_claims import RIVAL_CLAIMS

CLAIMS: tuple[Claim, ...] = (*PROSERVE_CLAIMS, *RIVAL_CLAIMS)


def claims_table(results: Results) -> str:
    rows: list[list[str]] = []
    for claim in CLAIMS:
        found = claim.check(results) or Finding("", Verdict.UNKNOWN)
        if found.verdict is Verdict.UNKNOWN:
            reason = ""
        else:
            reason = claim.why if found.verdict in (Verdict.REPRODUCED, Verdict.BETTER) else claim.why_not
        rows.append([claim.what, claim.source, claim.theirs, found.ours, found.verdict.value, reason])
    return table(["claim", "paper", "there", "here", "verdict", "why"], rows, words=6)
