"""Is it better? Pairwise judges, win rates, multi-turn scores, multiple choice, people.

``engine`` does an evaluation; ``contestants`` and ``writing`` make the answers, ``judge`` scores them,
``results`` and ``human`` turn stored judgements into figures by ``statistics``. The last three are
pure, and import neither models nor engines, so that screens may use them.
"""
