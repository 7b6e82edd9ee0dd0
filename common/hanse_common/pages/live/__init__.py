"""A page over HTTP that shows the state of a folder and updates itself while it is open.

`hanse server watch` and `hanse store watch` are made of it. A page consists of parts. Each part
reads files and fills a template; a part that cannot be read says so, and the others go on. The
browser gets changed parts as server-sent events. There is no build step, nothing is loaded from
another place, and nothing can be changed through the page.
"""
