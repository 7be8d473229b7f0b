"""What is read and scheduled: slides, volumes, tissue, tiles, ingest, clusters."""
