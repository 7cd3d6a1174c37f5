"""A crawl in parts, for engines that run tasks on many machines. Knows no engine.

    options ─> find targets ─> group them into parts ─> read each part, anywhere, as Arrow batches

Rate limits belong to an account, a region and an operation: parts that hold whole targets need
not know of each other.
"""
