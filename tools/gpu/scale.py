items = lambda *a: []
show = str
