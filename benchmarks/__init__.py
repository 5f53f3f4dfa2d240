"""Lamina's layers against the limits of the machine and against other libraries: `make bench`.

    cases.py      what is measured, with the arithmetic and the bytes that each case needs
    limits.py     what this machine can do at most
    reference.py  the inputs of a case, and its results in float64
    peers/        a process for each library, which computes, and times on request
    bars.py       ratios, shares of the limit, and what they should be
    report.py     the page; chart.py its picture
    __main__.py   runs it all

Results are checked before time is taken, and libraries go in turns.
"""
