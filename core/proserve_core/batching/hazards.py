"""From counts to hazards: what is known in particular leans on what is known in general.

A chain of tables goes from the general (all requests) to the particular (this client's requests with such prompts), and
the hazards of each link lean on those of the link before.

The tables of a kind (a band of prompt lengths, a class) mix many clients: each bin is believed as far as it has
exposure of its own, against `KIND_PRIOR` events. The tables of clients and prefixes are narrow, and what they are like
shows soon: before the bins, each of four stretches of the output is corrected by a ratio, events seen over events
expected, with a prior of `OWN_PRIOR` events (gamma prior on a Poisson rate). Few outputs suffice to learn that a
client's end ten times sooner than others, while bin by bin each of 83 would have to show it anew. Such a ratio for the
kinds as well costs 1.5 points of gain on a trace without clients (azure-code): the first few outputs of a band say
little about it.
"""

import numpy as np

from proserve_core.batching.output_bins import BINS, LAST_TOKEN, STARTS, Column, Table

FIRST_GUESS_TOKENS = 200
"""Mean output before anything was seen."""
KIND_PRIOR = 4.0
OWN_PRIOR = 1.0
LONGEST_PRIOR_TOKENS = 400
"""Where outputs hardly ever end, so many tokens in a bin count as much as what is known in general."""
HIGHEST_HAZARD = 0.999
_STRETCHES = np.searchsorted(STARTS, (1, 9, 65, 513))
_LENGTHS = np.diff(np.append(_STRETCHES, BINS))
_MOST_TOKENS = 2.0 * np.array((8, 56, 448, LAST_TOKEN))
"""By stretch: where outputs hardly ever end, the prior is as much as two outputs that go through."""


def general(events: Column, exposure: Column) -> Column:
    """Hazards by bin of all requests, from their counts."""
    mean = (events.sum() + 1) / (exposure.sum() + FIRST_GUESS_TOKENS)
    hazard: Column = (events + 1) / (exposure + 1 / mean)
    return np.minimum(hazard, HIGHEST_HAZARD)


def of_kind(known: Table, events: Table, exposure: Table) -> Table:
    """Hazards of a kind of requests, one row per chain. Rows without counts keep what is `known`."""
    weight = np.minimum(KIND_PRIOR / known, LONGEST_PRIOR_TOKENS)
    hazard: Table = (events + weight * known) / (exposure + weight)
    return np.minimum(hazard, HIGHEST_HAZARD, out=hazard)


def of_sender(known: Table, events: Table, exposure: Table) -> Table:
    """Hazards of a client's or a prefix's requests, one row per chain. Rows without counts keep what is `known`."""
    seen = np.add.reduceat(events, _STRETCHES, axis=1)
    foreseen = np.add.reduceat(exposure * known, _STRETCHES, axis=1)
    tokens = np.add.reduceat(exposure, _STRETCHES, axis=1)
    most = np.where(tokens > 0, _MOST_TOKENS * foreseen / np.maximum(tokens, 1e-9), OWN_PRIOR)
    prior = np.minimum(OWN_PRIOR, most)
    ratio = (seen + prior) / (foreseen + prior)
    leaning = np.minimum(known * np.repeat(ratio, _LENGTHS, axis=1), HIGHEST_HAZARD)
    weight = np.minimum(OWN_PRIOR / leaning, LONGEST_PRIOR_TOKENS)
    hazard: Table = (events + weight * leaning) / (exposure + weight)
    return np.minimum(hazard, HIGHEST_HAZARD, out=hazard)
