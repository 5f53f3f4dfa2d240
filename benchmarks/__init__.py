"""Lamina's layers against the limits of the machine and against other libraries: `make bench`.

    case.py       what a case is: its arithmetic, its bytes, its exact results
    linear.py     the cases of Linear; and so on, a file a layer, all of them in cases.py
    limits.py     what this machine can do at most
    reference.py  the inputs of a case, and how far results are off
    peers/        a process for each library, which computes, and times on request
    bars.py       ratios, shares of the limit, and what they should be
    starts.py     what a user waits for before the first results
    report.py     the page; chart.py its picture
    __main__.py   runs it all

Results are checked before time is taken, and libraries go in turns.
"""
