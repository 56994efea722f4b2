def report(out): return 0
