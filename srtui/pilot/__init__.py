"""What a pilot says about a run that is not started yet: pure figures and rules over a small stratified sample.

``strata`` draws the sample, ``forecast`` says what the rest will take, ``limits`` which token limits would have
held, ``about_task`` finds rewrites that talk about the task instead of doing it, ``verdict`` says what follows.
``srtui.pipeline.pilot_run`` does the work and fills in a :class:`PilotResult`; every face reads it back.
"""

DEFAULT_SAMPLES = 24
"""How many samples a pilot takes where nothing else is asked: minutes with most teachers, and enough that a fault
of one sample in eight is missed less than one time in twenty (0.875^24 = 4 %)."""
SIGNS = {"go": "✓", "change": "!", "worse": "✗", "unknown": "?"}
"""By verdict, the sign before its sentence."""
