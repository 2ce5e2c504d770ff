"""Acts on what the comparison found, each key looked up exactly once more before: orphans go to quarantine, those long
enough there are deleted, and what is referred to after all is taken out. A reference that dangles is told and never mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator import keys as minted
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import CLOSED, NO_TOKEN, TierError
from penguin_orchestrator.reconciling.comparing import Difference
from penguin_orchestrator.reconciling.reading import (
    KeyReader,
    LeftOutError,
    Place,
    Places,
    RefusedError,
    UncomparedError,
    in_portions,
    unchanged,
)

A_CALL = 500
DEADLINE_S = 20.0


@dataclass
class Found:
    """One thing for the receipt."""

    kind: str
    subject: str
    source: str
    action: str = ""


@dataclass
class Confirmed:
    """What still does not agree when looked up exactly."""

    orphans: list[str] = field(default_factory=list)
    dangling: dict[str, Place] = field(default_factory=dict)
    # Referred to, and in quarantine.
    wanted: list[str] = field(default_factory=list)
    # On both sides, under different generations.
    misfiled: list[str] = field(default_factory=list)


async def confirmed(reader: KeyReader, places: Places, tenant_id: UUID, found: Difference) -> Confirmed:
    """Look up exactly what the comparison found, at everybody who may hold it; raises RefusedError."""
    suspects = sorted({*found.orphans, *found.dangling})
    if not suspects:
        return Confirmed()
    # References first: whatever is deleted in between is gone at its owner later than there.
    referred = await reader.referred(places, tenant_id, suspects)
    held = await reader.find(places.kept.tier, tenant_id, suspects)
    result = Confirmed()
    for key in suspects:
        where = held.get(key, set())
        if key not in referred:
            if places.kept in where:
                result.orphans.append(key)
        elif places.kept in where:
            result.misfiled.append(key)
        elif places.quarantine in where:
            result.wanted.append(key)
        else:
            result.dangling[key] = min(referred[key])
    # And what dangles is asked for once more: a row may have gone, and its content with it, since it was first seen.
    still = await reader.referred(places, tenant_id, list(result.dangling))
    result.dangling = {key: place for key, place in result.dangling.items() if key in still}
    return result


class Mender:
    """Changes Content, for one tenant and one run. Every method raises RefusedError, and those that change LeftOutError."""

    def __init__(self, content: Tier, tenant_id: UUID) -> None:
        self._content = content
        self._tenant_id = tenant_id

    async def quarantine(self, keys: Sequence[str]) -> int:
        """Put contents into quarantine; returns how many went there."""
        count = 0
        for portion in in_portions(keys, A_CALL):
            request = pb.QuarantineContentsRequest(
                tenant_id=str(self._tenant_id), request_id=str(minted.new_id()), storage_keys=portion
            )
            count += (await self._call("QuarantineContents", request)).quarantined
        return count

    async def revive(self, keys: Sequence[str]) -> int:
        """Take contents out of quarantine: they are referred to; returns how many there were."""
        count = 0
        for portion in in_portions(keys, A_CALL):
            request = pb.ClaimContentsRequest(
                tenant_id=str(self._tenant_id), request_id=str(minted.new_id()), storage_keys=portion
            )
            count += (await self._call("ClaimContents", request)).claimed
        return count

    async def delete(self, keys: Sequence[str], before: datetime) -> tuple[int, set[str]]:
        """Delete contents that have been in quarantine since before a moment; any other is left alone. How many there were,
        and the keys that a legal hold keeps."""
        count, held = 0, set[str]()
        for portion in in_portions(keys, A_CALL):
            request = pb.DeleteContentsRequest(
                tenant_id=str(self._tenant_id), request_id=str(minted.new_id()), storage_keys=portion
            )
            request.quarantined_before.FromDatetime(before)
            reply = await self._call("DeleteContents", request)
            count += reply.deleted
            held.update(reply.held_keys)
        return count, held

    async def quarantined(self, before: datetime, token: str) -> tuple[list[str], str]:
        """A page of the keys in quarantine since before a moment, and the token of the next."""
        request = pb.ListQuarantinedContentsRequest(tenant_id=str(self._tenant_id), page_size=A_CALL, page_token=token)
        request.quarantined_before.FromDatetime(before)
        reply = await self._call("ListQuarantinedContents", request)
        return [content.storage_key for content in reply.contents], reply.next_page_token

    async def _call(self, name: str, request: Any) -> Any:
        method = getattr(self._content.stub(ContentServiceStub), name)
        try:
            return await self._content.insist(method, request, deadline_s=DEADLINE_S)
        except TierError as error:
            if error.reason != CLOSED:
                raise _unchanged(error) from None
        try:
            # A tenant that is closed changes nothing any more; what is nobody's goes all the same, by the platform's word.
            return await self._content.insist(method, request, deadline_s=DEADLINE_S, as_platform=True)
        except TierError as error:
            if error.reason in (NO_TOKEN, "PLATFORM_ONLY"):
                raise LeftOutError(error.reason) from None
            raise _unchanged(error) from None


def _unchanged(error: TierError) -> RefusedError | LeftOutError:
    """Why nothing was changed, or not surely: where that is not known (a tier took too long) the run ends, whoever it was of."""
    why = unchanged(error)
    return RefusedError(str(why)) if isinstance(why, UncomparedError) and error.outcome_unknown else why


def told(result: Confirmed, actions: Mapping[str, str], places: Places) -> list[Found]:
    """What of it stands in the receipt; `actions` say what is done, by kind."""
    kept, quarantine = places.kept.name, places.quarantine.name
    return [
        *(Found("orphan", key, kept, actions.get("orphan", "")) for key in result.orphans),
        *(Found("dangling", key, place.name) for key, place in result.dangling.items()),
        *(Found("wanted", key, quarantine, actions.get("wanted", "")) for key in result.wanted),
        *(Found("misfiled", key, kept) for key in result.misfiled),
    ]
