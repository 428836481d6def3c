"""Figures of our prior simulation study, which our own policy has to reach: its prototype, by place.

The same rows, definition of saturation and step times; another simulator and another draw of the classes, a policy
that sees no clients, and on both machines at most 256 entries in a step and 460k KV tokens. So `h100-256` is the
scenario that is most alike, and `h100`, with more sequences, is held against the same figures. Differences below 0.3
points are noise.
"""

import msgspec

from proserve_lab.report.results import Place


class StudyFigures(msgspec.Struct, frozen=True):
    """Share of the gain in the study."""

    prototype: float
    """Of the study's policy, which does not know output lengths: the floor."""
    lengths_known: float | None = None
    """Of the same policy when it is told them."""


_LOADS = {"full": (0.5, 0.8, 1.0, 1.2, 1.5, 2.0), "ends": (1.2, 2.0), "three": (0.8, 1.2, 2.0)}

# Group and trace: loads, then prototype and lengths known at each of them ("-": not reported).
_TABLE = """
h100 azure-conv            full  1.000/- .998/- .977/.978 .926/.934 .846/.853 .747/.767
h100 azure-code            full  .849/.906 .780/.860 .746/.838 .733/.820 .704/.797 .660/.771
h100 mooncake-conversation full  .982/- .969/.973 .958/.962 .934/.947 .908/.924 .866/.878
h100 mooncake-synthetic    full  .985/- .981/.983 .978/.982 .975/.981 .970/.979 .957/.974
h100 m-large               full  1.000/- .998/- .955/.990 .855/.968 .765/.924 .666/.863
h100 r1                    full  1.000/- .998/- .989/.991 .976/.982 .951/.959 .911/.915
a100 azure-conv            three .990/.994 .914/.928 .715/.723
a100 azure-code            three .716/.803 .641/.753 .555/.689
a100 mooncake-conversation three .892/.895 .848/.866 .761/.799
a100 mooncake-synthetic    three .914/.889 .898/.889 .876/.885
a100 m-large               three .925/.977 .797/.923 .607/.798
a100 r1                    three .986/.989 .975/.979 .941/.940
tight azure-conv            ends .898/.911 .710/.723
tight azure-code            ends .698/.816 .635/.764
tight mooncake-conversation ends .957/.971 .875/.893
tight mooncake-synthetic    ends .996/.998 .968/.992
tight m-large               ends .816/.945 .608/.825
tight r1                    ends .964/.967 .896/.872
wp10 azure-conv             ends .923/- .744/.763
wp10 azure-code             ends .714/- .641/.710
wp10 mooncake-conversation  ends .931/- .850/.875
wp10 mooncake-synthetic     ends .961/- .940/.959
wp10 m-large                ends .856/- .667/.813
wp10 r1                     ends .976/- .911/.915
"""
_SAME_AS = {"h100-256": "h100"}
"""Scenarios that the study's figures of another group are for."""


def _figures() -> dict[Place, StudyFigures]:
    found: dict[Place, StudyFigures] = {}
    for line in _TABLE.strip().splitlines():
        group, workload, loads, *pairs = line.split()
        for load, pair in zip(_LOADS[loads], pairs, strict=True):
            prototype, known = pair.split("/")
            found[Place(group, workload, load)] = StudyFigures(float(prototype), None if known == "-" else float(known))
    return found


_STUDY = _figures()


def study_figures(place: Place) -> StudyFigures | None:
    """The study's figures for the place; None if it was not in the study."""
    group = _SAME_AS.get(place.scenario, place.scenario)
    return _STUDY.get(Place(group, place.workload, place.load))
