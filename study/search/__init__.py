"""The one door to Optuna: studies, samplers, pruners, trials, and the database they live in."""
