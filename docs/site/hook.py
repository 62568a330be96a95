"""The hook of mkdocs.yml: adds the generated pages to the files and the environments to the navigation."""

from __future__ import annotations

from typing import Any

import site_environments
import site_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of all environments behind the overview."""
    nav: list[dict[str, Any]] = config.nav or []
    section = next(entry["Environments"] for entry in nav if "Environments" in entry)
    section += [{id: site_environments.place_of(id)} for id in site_environments.ids()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated; it replaces a file of docs/ of the same name."""
    made = [File.generated(config, place, content=text) for place, text in site_pages.pages().items()]
    made += [File.generated(config, place, abs_src_path=str(path)) for place, path in site_pages.copied().items()]
    for file in made:
        if known := files.get_file_from_path(file.src_uri):
            files.remove(known)
        files.append(file)
    return files
