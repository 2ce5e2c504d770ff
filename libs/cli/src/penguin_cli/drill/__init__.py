"""The outage contract as a drill: faults on a local stack under load, and what each part of the platform must do meanwhile."""
