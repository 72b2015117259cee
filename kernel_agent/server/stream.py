"""A run's events as server-sent events (the WHATWG HTML standard, section 9.2): `id` is `seq`, `data` the event as JSON."""

from __future__ import annotations

import asyncio

import orjson
from tornado.iostream import StreamClosedError

from kernel_agent.live.log import Entry
from kernel_agent.server.base import Handler, guarded

HEARTBEAT_SECONDS = 15.0


class EventsHandler(Handler):
    """Streaming."""

    @guarded
    async def get(self, run_id: str) -> None:
        """All events after number `after`, then each as it comes, until the run is closed or the page goes away."""
        after = self.number("after", -1)
        run = await self.run_of(run_id)
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Entry]()

        def take(entry: Entry) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, entry)

        stop = run.log.follow(take, after=after)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        self._gone = asyncio.Event()
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await self.flush()
            while not gone.done():
                waiting = asyncio.ensure_future(queue.get())
                await asyncio.wait([waiting, gone], timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    self.write(": alive\n\n")
                    await self.flush()
                    continue
                entry = waiting.result()
                self.write(self._as_text(entry))
                while not queue.empty():
                    entry = queue.get_nowait()
                    self.write(self._as_text(entry))
                await self.flush()
                if entry["type"] == "state" and entry["state"] == "closed":
                    break
        except StreamClosedError:
            pass
        finally:
            stop()
            gone.cancel()
        if not self._finished:
            self.finish(set_content_type="text/event-stream")

    def on_connection_close(self) -> None:
        """The page has gone away."""
        super().on_connection_close()
        if hasattr(self, "_gone"):
            self._gone.set()

    def _as_text(self, entry: Entry) -> bytes:
        if entry["type"] == "run":
            entry = {**entry, "path": self.shown(entry["path"])}
        return b"id: %d\ndata: %b\n\n" % (entry["seq"], orjson.dumps(entry))
