"""The versions of what the embedded predictor's server brings along: a pod that starts next month is to be the same one."""

from __future__ import annotations

SERVER = ("kserve==0.21.0", "pyarrow==26.0.1")
"""As `constraints.txt` has them. The features are computed over Arrow's tables, which no manifest names: no model is
pickled with them."""
BROUGHT = (
    "aiohappyeyeballs==2.7.1", "aiohttp==3.14.5", "aiosignal==1.4.0", "annotated-doc==0.0.7", "annotated-types==0.8.0",
    "anyio==4.16.0", "attrs==26.1.0", "certifi==2026.10.18", "cffi==2.1.1", "charset-normalizer==3.5.2", "click==8.5.1",
    "cloudevents==1.13.0", "cryptography==50.0.2", "deprecation==2.1.0", "fastapi==0.165.0", "frozenlist==1.8.0",
    "google-auth==2.62.2", "grpc-interceptor==0.15.4", "grpcio==1.85.1", "grpcio-tools==1.81.1", "h11==0.16.0",
    "httpcore==1.0.9", "httptools==0.9.0", "httpx==0.28.1", "idna==3.20", "kubernetes==30.1.0", "multidict==7.2.1",
    "oauthlib==4.0.1", "opentelemetry-api==1.45.2", "orjson==3.13.0", "packaging==26.3", "pillow==13.0.0",
    "prometheus_client==0.26.0", "propcache==0.5.4", "protobuf==6.33.6", "psutil==5.9.8", "pyasn1==0.6.5",
    "pyasn1_modules==0.4.2", "pycparser==3.12", "pydantic==2.14.3", "pydantic_core==2.50.4", "PyJWT==2.15.1",
    "python-dateutil==2.9.0.post0", "python-dotenv==1.2.4", "python-multipart==0.0.34", "pytz==2026.6", "PyYAML==6.0.3",
    "requests==2.33.0", "requests-oauthlib==2.0.0", "six==1.17.0", "starlette==1.10.0", "tabulate==0.10.0",
    "timing-asgi==0.3.2", "typing_extensions==4.16.0", "typing-inspection==0.4.5", "tzdata==2026.6", "urllib3==2.7.0",
    "uvicorn==0.54.0", "uvloop==0.23.0", "watchfiles==1.3.0", "websocket-client==1.9.2", "websockets==17.4", "yarl==1.25.1",
)  # fmt: skip
"""As `constraints.txt` has them too. The libraries that pickled the model are not among them, nor what those bring along:
they have the versions of its manifest."""
