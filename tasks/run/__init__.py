"""A whole cohort through all its stages, by a plan: ``microtome run plan.toml``."""
