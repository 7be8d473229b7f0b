"""Diagnosis from connectomes: graph networks beside linear baselines."""
