"""The web application of `cls serve`: a page, predictions as JSON, heat maps, health and metrics.

A request is admitted or refused (503) before its body is read, its body is read up to a limit
(413), and its image is decoded up to a number of pixels (400), so that the memory of the server is
bounded by its limits.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import cv2
import fastapi
import jax
import numpy as np
import prometheus_client as prometheus
import pydantic
import starlette.formparsers
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from cls.errors import UserError
from cls.inference.explaining import explain_pixels
from cls.inference.model import Model
from cls.inference.preprocess import UnreadableImage
from cls.inference.serving.batcher import CPU_SIZES, SIZES, Batcher, closing_batcher

PAGE = Path(__file__).with_name('page.html')
_BODY = {  # of OpenAPI
    'requestBody': {
        'required': True,
        'content': {
            'image/*': {'schema': {'type': 'string', 'format': 'binary'}},
            'multipart/form-data': {
                'schema': {
                    'type': 'object',
                    'required': ['file'],
                    'properties': {'file': {'type': 'string', 'format': 'binary'}},
                }
            },
        },
    }
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
      requests: requests that are read, decoded and computed at once; further ones are refused.
      upload: bytes of an upload.
      pixels: height times width of an image.
      seconds: the time for a client to send its upload.
    """

    requests: int = 256
    upload: int = 20 * 2**20
    pixels: int = 50_000_000
    seconds: float = 30.0


class Class(pydantic.BaseModel):
    """A class and its probability."""

    index: int
    label: str
    name: str
    probability: float


class Answer(pydantic.BaseModel):
    """The answer to an image: the most probable classes, the best first."""

    model: str
    predictions: list[Class]


class Description(pydantic.BaseModel):
    """The model of the server."""

    model: str
    source: str
    license: str
    num_classes: int
    classes: list[str]
    size: int
    multi_label: bool


class Problem(pydantic.BaseModel):
    """The reason for a refusal."""

    detail: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {
        'model': Problem,
        'description': 'no image, one that cannot be decoded, or a wrong field',
    },
    408: {'model': Problem, 'description': 'the upload took too long'},
    413: {'model': Problem, 'description': 'the upload is too large'},
    '4XX': {'model': Problem, 'description': 'another mistake'},
    503: {'model': Problem, 'description': 'too many requests at once, or the server is stopping'},
}


class Server:
    """The state of a server: its model, its batches, its counters."""

    def __init__(self, model: Model, limits: Limits, batcher: Batcher) -> None:
        """Creates the counters; `batcher` computes probabilities of `model`'s crops."""
        self.model, self.limits, self.batcher = model, limits, batcher
        self.preprocess = dataclasses.replace(
            model.preprocess, max_pixels=min(limits.pixels, model.preprocess.max_pixels)
        )
        self.admitted = 0
        self.decoders = ThreadPoolExecutor(thread_name_prefix='decode')
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            'cls_requests', 'Answered requests.', ('path', 'status'), registry=self.registry
        )
        self.duration = prometheus.Histogram(
            'cls_request_seconds', 'From a request to its answer.', ('path',),
            registry=self.registry,
        )  # fmt: skip
        in_progress = prometheus.Gauge(
            'cls_requests_in_progress', 'Admitted requests.', registry=self.registry
        )
        in_progress.set_function(lambda: self.admitted)
        of_size = prometheus.Gauge(
            'cls_batches', 'Computed batches, by their size.', ('size',), registry=self.registry
        )
        for size in batcher.batches:
            of_size.labels(size).set_function(lambda n=size: batcher.batches[n])

    @contextlib.contextmanager
    def admission(self):
        """A context for one request. Raises 503 if there are too many."""
        if self.admitted >= self.limits.requests:
            raise fastapi.HTTPException(
                503, 'too many requests at once: try again', {'Retry-After': '1'}
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    async def upload(self, request: fastapi.Request) -> bytes:
        """Returns the image in a request's body. Raises 400, 408 or 413."""
        declared = request.headers.get('content-length', '')
        if declared.isdecimal() and int(declared) > self.limits.upload:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.limits.seconds):
                kind = request.headers.get('content-type', '').lower()
                if kind.startswith('multipart/form-data'):
                    content = await self._file_of_form(request)
                else:
                    content = b''.join([part async for part in self._limited(request)])
        except TimeoutError:
            raise fastapi.HTTPException(
                408, f'the upload took more than {self.limits.seconds:g} seconds'
            ) from None
        if not content:
            raise fastapi.HTTPException(400, 'the body is empty: expected the content of an image')
        return content

    def _too_large(self) -> fastapi.HTTPException:
        most = self.limits.upload / 2**20
        return fastapi.HTTPException(413, f'the upload is larger than {most:g} MiB')

    async def _limited(self, request: fastapi.Request) -> AsyncGenerator[bytes, None]:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self.limits.upload:
                raise self._too_large()
            yield part

    async def _file_of_form(self, request: fastapi.Request) -> bytes:
        parser = starlette.formparsers.MultiPartParser(
            request.headers, self._limited(request), max_files=1, max_fields=8
        )
        try:
            form = await parser.parse()
        except (starlette.formparsers.MultiPartException, KeyError) as error:
            why = getattr(error, 'message', str(error))
            raise fastapi.HTTPException(400, f'the form cannot be read ({why})') from None
        try:
            for value in form.values():
                if isinstance(value, UploadFile):
                    return await value.read()
        finally:
            await form.close()
        raise fastapi.HTTPException(400, "the form has no file: expected one, as curl -F 'file=@x'")

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns function(*args) of a decoding thread. Raises 400 for an unreadable image."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.decoders, function, *args)
        except UnreadableImage as error:
            why = error.why
            # A run may have a lower limit of its own, which no flag raises.
            if error.too_large and self.preprocess.max_pixels == self.limits.pixels:
                why += '; see --pixels of cls serve'
            raise fastapi.HTTPException(400, f'the image cannot be read ({why})') from None

    async def computed(self, image: np.ndarray) -> np.ndarray:
        """Returns the probabilities of a crop."""
        return await asyncio.wrap_future(self.batcher.submit(image))


def create(
    model: Model, limits: Limits | None = None, version: str = '', sizes: Sequence[int] = ()
) -> fastapi.FastAPI:
    """Returns the application for a model.

    Its programs are compiled at the start, before the first request.

    Args:
      model: the model.
      limits: the limits of requests.
      version: that of the package, for the OpenAPI description.
      sizes: the numbers of images that are computed together; (): those for the device.
    """
    limits = limits or Limits()
    whole = not sizes and jax.default_backend() == 'cpu'
    sizes = sizes or (CPU_SIZES if whole else SIZES)
    size = model.preprocess.size

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        for count in sizes:
            model.of_pixels(np.zeros((count, size, size, model.preprocess.channels), np.uint8))
        with closing_batcher(model.of_pixels, sizes, whole) as batcher:
            app.state.server = Server(model, limits, batcher)
            try:
                yield
            finally:
                app.state.server.decoders.shutdown()

    # Swagger's pages load scripts from other servers, so they are off; /openapi.json stays.
    app = fastapi.FastAPI(
        title=f'cls serve: {model.variant}', version=version or '0', lifespan=lifespan,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.middleware('http')(_measured)
    app.exception_handler(UserError)(_mistake)
    app.exception_handler(RequestValidationError)(_wrong_field)
    app.exception_handler(ClientDisconnect)(_left)
    app.include_router(_routes())
    return app


def _mistake(_: fastapi.Request, error: Exception) -> Response:
    return JSONResponse({'detail': ' '.join(str(error).split())}, 400)


def _wrong_field(_: fastapi.Request, error: Any) -> Response:
    """Returns FastAPI's findings in the form of all other refusals."""
    texts = [
        f'{place["loc"][-1]} is {place.get("input")!r}: {place["msg"]}' for place in error.errors()
    ]
    return JSONResponse({'detail': '; '.join(texts)}, 400)


def _left(_: fastapi.Request, error: Exception) -> Response:
    return Response(status_code=499)  # for the counters: nobody reads it


async def _measured(request: fastapi.Request, call_next: Callable[..., Any]) -> Response:
    server, began = request.app.state.server, time.perf_counter()
    response = await call_next(request)
    route = request.scope.get('route')
    path = route.path if route else 'other'  # a counter for each unknown path would grow
    server.requests.labels(path, response.status_code).inc()
    server.duration.labels(path).observe(time.perf_counter() - began)
    return response


def _server(request: fastapi.Request) -> Server:
    return request.app.state.server


Current = Annotated[Server, fastapi.Depends(_server)]
Top = Annotated[int, fastapi.Query(ge=1, description='the number of classes')]


def _routes() -> fastapi.APIRouter:
    router = fastapi.APIRouter()

    @router.get('/', include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text())

    @router.post('/predict', response_model=Answer, responses=_REFUSALS, openapi_extra=_BODY)
    async def predict(request: fastapi.Request, server: Current, top: Top = 5) -> Answer:
        """Returns the most probable classes of an image: the body, or the file of a form."""
        with server.admission():
            content = await server.upload(request)
            crop = await server.in_thread(server.preprocess.crop, content, 'the image')
            row = await server.computed(crop)
        model = server.model
        ranked = model.ranked(row, top)
        classes = [Class(**dataclasses.asdict(prediction)) for prediction in ranked]
        return Answer(model=model.variant, predictions=classes)

    @router.post(
        '/explain',
        responses={200: {'content': {'image/png': {}}}, **_REFUSALS},
        response_class=Response,
        openapi_extra=_BODY,
    )
    async def explain(
        request: fastapi.Request,
        server: Current,
        index: Annotated[int | None, fastapi.Query(description='default: the best class')] = None,
    ) -> Response:
        """Returns the image with a heat map of the pixels that speak for a class, as PNG."""
        count = server.model.num_classes
        if index is not None and not 0 <= index < count:
            raise fastapi.HTTPException(400, f'index is {index}: expected 0 to {count - 1}')
        with server.admission():
            content = await server.upload(request)
            crop = await server.in_thread(server.preprocess.crop, content, 'the image')
            work = server.batcher.call(lambda: _heat_map(server.model, crop, index))
            png = await asyncio.wrap_future(work)
        return Response(png, media_type='image/png')

    @router.get('/model', response_model=Description)
    async def description(server: Current) -> Description:
        """Returns the model's name, origin, license and classes."""
        model = server.model
        return Description(
            model=model.variant,
            source=model.source,
            license=model.license,
            num_classes=model.num_classes,
            classes=list(model.names),
            size=model.preprocess.size,
            multi_label=model.multi_label,
        )

    @router.get('/health')
    async def health() -> dict[str, str]:
        """Answers as long as the server accepts requests."""
        return {'status': 'ok'}

    @router.get('/metrics', response_class=Response)
    async def metrics(server: Current) -> Response:
        """Returns counters in the text format of Prometheus."""
        text = prometheus.generate_latest(server.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    return router


def _heat_map(model: Model, crop: np.ndarray, index: int | None) -> bytes:
    explained = explain_pixels(model, crop[None], target=index)
    _, png = cv2.imencode('.png', explained.overlay()[..., ::-1])
    return png.tobytes()
