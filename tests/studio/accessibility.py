"""Check a page by axe-core, the accessibility engine of Deque."""

from playwright.sync_api import Page

SERIOUS = ("serious", "critical")


def assert_accessible(page: Page) -> None:
    """Check that axe-core finds nothing serious in what the page shows now."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    nodes = [(violation, node) for violation in violations for node in violation["nodes"]]
    serious = [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation, node in nodes
        if violation["impact"] in SERIOUS
    ]
    assert serious == []
