"""Photos by the million, without a server: `carid bulk SOURCE OUT`.

    sources.py ─► run.py (Ray Data) ─► worker.py ─► results.py
    which photos   hands them out       answers      OUT/answers/*.parquet, and what is missing

Ray Data hands the names of photos to workers, each of which reads and answers them with an engine
of its own; only answers come back. This process alone writes them: a file is there as a whole or
not at all, so who starts the same run again gets what is missing.
"""
