"""Reconcile: brings to light where the tiers disagree, and mends what can be mended without a doubt.

It is idle while anything is: a tier that is away, slow, older than its code or short of an answer ends the run, and nothing
is put aside or deleted on what was left unsaid.
"""
