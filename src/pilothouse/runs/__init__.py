"""Runs, the heart: admission, execution, journal, events, stop, recovery.

A run is journaled as the messages it is made of; its event log is what every interface shows
(docs/decisions/0001-the-transcript-is-the-checkpoint.md).
"""
