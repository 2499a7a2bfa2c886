"""What every record is, and the address of something stored."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Record):
    """The address of something stored: `<store>/<kind>/<identity>/<content>`."""

    uri: str

    @property
    def identity(self) -> str:
        """32 hex digits: what it was made of."""
        return self.uri.rsplit("/", 2)[-2]

    @property
    def content(self) -> str:
        """16 hex digits: the bytes that came out."""
        return self.uri.rsplit("/", 1)[-1]
