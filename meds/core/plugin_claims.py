"""Who may have a name that several plugins of one kind claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meds.core.plugin import OWN_DISTRIBUTION, BrokenPlugin, Registration


@dataclass(frozen=True)
class Claim:
    """A plugin that wants its name, and the entry point and the module that it was registered by."""

    registration: Registration
    entry_point: str
    module: str

    def left_out(self, error: str) -> BrokenPlugin:
        """Its line among the broken ones."""
        found = self.registration
        return BrokenPlugin(self.entry_point, found.package, found.package_version, error, self.module)


def holder(claims: Sequence[Claim]) -> Claim | None:
    """Whose name it is: that of meds itself, else that of the only one who claims it; None if several do.

    The first to come would be the first of the alphabet: a package that is newly installed could take over a name.
    """
    own = [claim for claim in claims if claim.registration.package == OWN_DISTRIBUTION]
    return own[0] if own else claims[0] if len(claims) == 1 else None


def why_lost(claims: Sequence[Claim], claim: Claim) -> str:
    """Why one of them does not have the name, and what to do."""
    if holder(claims) is None:
        return why_contested(claims)
    kind, name = claim.registration.kind, claim.registration.plugin.name
    return f"A {kind} named '{name}' comes with meds, so this one is left out; its author has to rename it."


def why_contested(claims: Sequence[Claim]) -> str:
    """Why none of several has the name, and what to do."""
    first = claims[0].registration
    what = f"have a {first.kind} named '{first.plugin.name}'"
    packages = sorted({claim.registration.package for claim in claims})
    if len(packages) == 1:
        points = " and ".join(sorted(claim.entry_point for claim in claims))
        return f"The entry points {points} of {packages[0]} {what} each, so that none is used; rename it in one."
    if len(packages) == 2:
        return f"{packages[0]} and {packages[1]} both {what}, so that neither is used; uninstall one of them."
    return f"{', '.join(packages)} all {what}, so that none is used; uninstall all but one of them."
