"""Which pipeline version a deploy means."""

from __future__ import annotations

from pydantic import BaseModel, Field

from heartwatch.settings import Settings, load_settings


class Target(BaseModel):
    """Which pipeline version is meant; an empty field takes what the settings say."""

    analytic: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$", description="folder name under ksql/ and schemas/")
    version: int | None = Field(None, ge=1, le=9_999, description="version in every resource's name")
    variables: dict[str, str] | None = Field(None, description="overrides of the analytic's KSQL variables")

    def settings(self) -> Settings:
        """Return the settings with this target.

        Raises:
            heartwatch.settings.SettingsError: they can't be used.
        """
        settings = load_settings()
        chosen = {name: value for name, value in self.model_dump().items() if value is not None}
        return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=chosen)})
