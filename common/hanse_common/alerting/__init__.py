"""Tells a person what needs one: which events there are, who is told, and how.

`events` has the table of events, `settings` the table `[notify]` of a settings file, `delivery`
the three ways to a person, and `watcher` the thread that looks for events while a command runs.
"""
