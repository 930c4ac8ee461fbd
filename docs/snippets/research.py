# research.py
from arcp_io import App, Ceiling, errors

app = App(
    name="example",
    version="0.1.0",
    tokens={"s3cret": "alice"},
    ceilings=[  # The most that may be asked for: the first one for a principal and an agent binds.
        Ceiling(
            principal="alice",
            lease={
                "fs.read": ["/data/**"],
                "net.fetch": ["https://*.example.com/**"],
                "tool.call": ["search", "math.*"],
                "cost.budget": ["USD:5"],
            },
            longest_expiry_sec=24 * 3600,
        )
    ],
)


@app.agent("research", version="1.0.0")
async def research(job, path):
    with job.open(path) as file:  # fs.read
        question = file.read()
    found: list[str] = []
    try:
        while True:
            async with job.tool("search", {"q": question}) as call:  # tool.call
                url = await job.fetch_allowed("https://api.example.com/search")  # net.fetch
                async with job.reserve("USD", "0.10") as hold:  # nobody else can spend it meanwhile
                    call.result, cost = f"part {len(found)} of {url}", "0.07"  # fetch that url here
                    hold.settle(cost, "cost.search")
            found.append(call.result)
    except errors.Denied as denied:
        if denied.code != "BUDGET_EXHAUSTED":
            raise
    return {"found": found, "left": str(job.remaining("USD"))}
