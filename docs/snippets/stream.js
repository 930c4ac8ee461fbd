// stream.js
// Call `take` with every event of a job, each once and in order, and return when the job has ended.
export async function stream(url, token, take, { signal, last = "" } = {}) {
  for (;;) {
    const headers = { Authorization: `Bearer ${token}` };
    if (last) headers["Last-Event-ID"] = last;
    let answer = null;
    try {
      answer = await fetch(url, { headers, signal, cache: "no-store" });
      for await (const event of answer.status === 200 ? eventsOf(answer.body) : []) {
        await take(JSON.parse(event.data));
        last = event.id;
        if (event.event === "end") return;
      }
    } catch (error) {
      if (signal?.aborted || !(error instanceof TypeError)) throw error; // fetch tells a lost connection so.
    }
    if (answer?.status === 204) return; // The end was taken before.
    if (answer && answer.status >= 400 && answer.status < 500 && answer.status !== 429) {
      throw new Error(`${answer.status}: ${await answer.text()}`); // To ask again would not help.
    }
    await new Promise((resume) => setTimeout(resume, 1000 + 2000 * Math.random()));
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return; // A part of an event comes again, whole.
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => line.split(/: ?(.*)/s, 2));
      const event = Object.fromEntries(fields);
      if ("data" in event) yield event;
    }
  }
}
