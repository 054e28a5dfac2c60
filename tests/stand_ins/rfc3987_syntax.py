"""In place of a package for addresses in other scripts, which Jupyter's events import if it is there. It compiles a
grammar at import: one to two seconds of a processor for every server that tests start.
"""

raise ImportError("Tests start their servers without this package.")
