"""The page of `cls report` in a real browser; tests/inference/test_page.py states its requirements.

SCREENSHOTS=DIR keeps pictures of the page.
"""

import os
from pathlib import Path

import pytest
import reported

from cls.tools import report

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get('CHROMIUM', '/usr/bin/chromium')
ALONE = ('--no-sandbox', '--disable-background-networking', '--disable-component-update')


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    run = reported.write(folder)
    assert report.main([str(run), '--output', str(folder / 'page.html')]) == 0
    return folder / 'page.html'


@pytest.fixture(params=[390, 1280])
def width(request):
    return request.param


@pytest.fixture(params=['light', 'dark'])
def page(request, file, width):
    sync = pytest.importorskip('playwright.sync_api')
    with sync.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        page = browser.new_page(
            color_scheme=request.param, viewport={'width': width, 'height': 844}
        )
        page.problems, page.addresses = [], []
        page.on('pageerror', lambda error: page.problems.append(str(error)))
        page.on('console', lambda message: page.problems.append(message.text))
        page.on('dialog', lambda dialog: page.problems.append(dialog.message))
        page.on('request', lambda asked: page.addresses.append(asked.url))
        page.goto(file.as_uri())
        yield page
        if folder := os.environ.get('SCREENSHOTS'):
            name = f'report-{request.param}-{width}.png'
            page.screenshot(path=Path(folder) / name, full_page=True)
        browser.close()


def test_the_page_fits_and_asks_for_nothing(page, file):
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    own = [address for address in page.addresses if not address.startswith('data:')]
    assert own == [file.as_uri()]
    assert page.problems == []
    broken = '[...document.images].filter(image => !image.complete || !image.naturalWidth).length'
    assert page.evaluate(broken) == 0
    assert page.locator('script').count() == 1  # none of the names of classes
    # Text is readable: dark on light, or light on dark.
    luminance = """name => {
        const color = getComputedStyle(document.body)[name].match(/\\d+/g).map(Number)
        return color[0] + color[1] + color[2]
    }"""
    difference = page.evaluate(luminance, 'color') - page.evaluate(luminance, 'backgroundColor')
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert difference > 450 if dark else difference < -450
    page.emulate_media(media='print')
    assert page.evaluate(luminance, 'color') < page.evaluate(luminance, 'backgroundColor')
    page.emulate_media(media='screen')


def test_texts_of_charts_do_not_overlap_and_are_inside(page):
    """No number of an axis touches its neighbor; no text is cut off at the sides."""
    touching = """() => {
        let count = 0
        for (const svg of document.querySelectorAll('figure svg')) {
            const outside = svg.getBoundingClientRect()
            const boxes = [...svg.querySelectorAll('text:not(.number):not(.label)')]
                .map(text => text.getBoundingClientRect())
            for (const [i, a] of boxes.entries()) {
                if (a.left < outside.left - 2 || a.right > outside.right + 14) count++
                for (const b of boxes.slice(i + 1)) {
                    if (a.left < b.right - 1 && b.left < a.right - 1
                        && a.top < b.bottom - 3 && b.top < a.bottom - 3) count++
                }
            }
        }
        return count
    }"""
    assert page.evaluate(touching) == 0


def test_a_click_on_a_title_sorts_the_table(page):
    table = page.locator('table:has(th:text-is("predicted"))')
    head = table.locator('th', has_text='recall %')
    for order in (1, -1):
        head.click()
        values = [float(x) for x in table.locator('td:nth-child(5)').all_inner_texts()]
        assert values == sorted(values, reverse=order < 0)
    table.locator('th', has_text='class').click()
    names = table.locator('td:first-child').all_inner_texts()
    assert len(names) == len(reported.CLASSES)
    assert page.problems == []
