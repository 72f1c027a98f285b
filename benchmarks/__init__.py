"""Benchmarks: tgdav beside other WebDAV servers in one run, its write path beside its own parts, and the counts it promises.

``python -m benchmarks`` prints them and says which targets are met; ``docs/performance.md`` keeps the last table and says
how to read it. Nothing here is part of the product, and no test judges a speed.
"""
