"""What a token is bound to (contracts §10): teams, services, users. Whoever has it sends and sees only what is theirs. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from usage_pipeline.values import Malformed, identifier_text

NOT_SAID = "unknown"  # what a member is whose sender does not know it
MAX_VALUES = 100


@dataclass(frozen=True, slots=True)
class Bounds:
    """Values of one kind are alternatives, and one of each kind that has any is required. Without any: bound to nothing.

    An event that does not say a bound member gets the first value.
    """

    teams: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    @classmethod
    def of(cls, teams: Sequence[str], services: Sequence[str], users: Sequence[str]) -> "Bounds":
        """Those of the options of a command, each value once. Raises Malformed."""
        found = cls(*(tuple(dict.fromkeys(each)) for each in (teams, services, users)))
        for name, kept in (("--team", found.teams), ("--service", found.services), ("--user", found.users)):
            for value in kept:
                if identifier_text(name, value) == NOT_SAID:
                    raise Malformed(f"{name}: expected a name, came {NOT_SAID}, which is what is not said")
        if (count := len(found.teams) + len(found.services) + len(found.users)) > MAX_VALUES:
            raise Malformed(f"--team, --service, --user: expected at most {MAX_VALUES} values together, came {count}")
        return found

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The values of each member of an event that is bound."""
        named = {"team": self.teams, "service": self.services, "user_id": self.users}
        return {name: values for name, values in named.items() if values}

    @property
    def said(self) -> str:
        """`team a or b, service c`; an empty text without any."""
        return ", ".join(f"{name.removesuffix('_id')} {' or '.join(kept)}" for name, kept in self.members.items())


@dataclass(frozen=True, slots=True)
class Binding:
    """The bounds of a token, and a random id that all tokens with the same bounds share. Nobody outside knows it."""

    binding_id: UUID
    bounds: Bounds

    def own_id(self, event_id: UUID) -> UUID:
        """The id under which an event is stored whose id belongs to a row that this binding may not see."""
        return uuid5(self.binding_id, str(event_id))

    @property
    def arguments(self) -> dict[str, object]:
        """As parameters of the queries that ask what a binding may see."""
        bounds = self.bounds
        return {
            "binding_id": self.binding_id,
            "teams": list(bounds.teams),
            "services": list(bounds.services),
            "users": list(bounds.users),
        }
