"""The page of `cls serve` in a real browser, with a phone's screen and in dark mode.

Needs Playwright for Python and Chromium (CHROMIUM names it, by default /usr/bin/chromium):

    pip install playwright
    ./launch/test.sh -m browser -n0

SCREENSHOTS=DIR keeps pictures of the page.
"""

import json
import os
from pathlib import Path

import pytest
from served import Served, png, trained

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get('CHROMIUM', '/usr/bin/chromium')
ALONE = ('--no-sandbox', '--disable-background-networking', '--disable-component-update')


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    served = Served(trained(tmp_path_factory.mktemp('page') / 'run'), '--pixels', '100000')
    yield served
    assert served.ended()[0] == 0


@pytest.fixture(params=[('dark', 390), ('light', 1200)], ids=['phone', 'desktop'])
def page(request, server):
    sync = pytest.importorskip('playwright.sync_api')
    scheme, width = request.param
    with sync.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        page = browser.new_page(color_scheme=scheme, viewport={'width': width, 'height': 844})
        page.problems, page.hosts = [], set()
        page.on('pageerror', lambda error: page.problems.append(str(error)))
        page.on('console', lambda message: page.problems.append(message.text))
        page.on('request', lambda asked: page.hosts.add(asked.url.split('/')[2]))
        page.goto(f'http://{server.host}:{server.port}/')
        yield page
        if folder := os.environ.get('SCREENSHOTS'):
            page.screenshot(path=Path(folder) / f'serve-{scheme}.png', full_page=True)
        browser.close()


def choose(page, content, name='image.png'):
    page.set_input_files('#file', {'name': name, 'mimeType': 'image/png', 'buffer': content})


def test_an_image_is_answered_and_explained(page, server):
    content = png(size=(80, 120))
    choose(page, content)
    page.wait_for_selector('#map:not([hidden])')
    answer = json.loads(server.ask('POST', '/predict', content)[1])['predictions']
    shown = page.locator('#classes button').all_inner_texts()
    assert [text.split()[0] for text in shown] == [x['name'] for x in answer]
    assert shown[0].split()[1] == f'{100 * answer[0]["probability"]:.1f}'
    assert page.evaluate("document.getElementById('heat').naturalWidth") == 8
    page.locator('#classes button').nth(2).click()
    page.wait_for_function(f"document.getElementById('of').textContent == '{answer[2]['name']}'")
    # All of it fits the screen, and nothing came from elsewhere.
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert page.hosts == {f'{server.host}:{server.port}'}
    assert page.problems == []


def test_a_file_that_is_no_image_is_said(page):
    choose(page, b'no image')
    page.wait_for_function("document.getElementById('message').textContent.includes('cannot be')")
    assert page.locator('#classes button').count() == 0
    choose(page, png())  # and the next one is answered
    page.wait_for_selector('#classes button')


def test_names_of_classes_are_text(page):
    """A class may be called as the user likes; it is not HTML."""
    html = '<img src=x onerror=alert(1)>'
    page.route(
        '**/predict*',
        lambda route: route.fulfill(
            json={
                'model': 'x',
                'predictions': [{'index': 0, 'label': html, 'name': html, 'probability': 1.0}],
            }
        ),
    )
    choose(page, png())
    page.wait_for_selector('#classes button')
    assert html in page.locator('#classes button').inner_text()
    assert page.locator('#classes img').count() == 0
