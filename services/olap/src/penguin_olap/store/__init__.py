"""OLAP's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from penguin_chassis.housekeeping import Duty
from penguin_olap.store.partitions import open_months

DUTIES = (Duty("fact_partitions", 3600.0, open_months),)
