"""The main job, end to end, on data made on the spot or on the user's own slide."""
