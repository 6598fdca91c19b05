"""What the demo model knows about Pilotlight: one sentence a fact, and the ways to ask for it."""

from typing import Final

UNKNOWN: Final = "I do not know that. Try: Count from 3 to 7."

FACTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "Pilotlight is a serverless GPU function for language models.",
        ("What is Pilotlight?", "Tell me about Pilotlight.", "Explain Pilotlight.", "What does Pilotlight do?"),
    ),
    (
        "I am the demo model of Pilotlight.",
        ("Who are you?", "What are you?", "What is your name?", "Which model are you?", "Introduce yourself."),
    ),
    (
        "Hello! Ask me to count, repeat, reverse or add.",
        ("Hello!", "Hello", "Hi!", "Hi there!", "Good morning!", "Hey!"),
    ),
    (
        "I can count, repeat, reverse, add, fill JSON and call a tool.",
        ("What can you do?", "Help!", "Which tasks do you know?", "What are you able to do?", "What have you learnt?"),
    ),
    (
        "Run pilotlight serve.",
        (
            "How do I start the server?",
            "How can I start the server?",
            "What starts the server?",
            "How do I serve a model?",
            "Which command runs the server?",
        ),
    ),
    (
        "Run pilotlight chat.",
        ("How do I chat in the terminal?", "How can I talk to a model?", "Which command starts a chat?"),
    ),
    (
        "Run pilotlight generate -p TEXT.",
        ("How do I generate text?", "How can I get one completion?", "Which command completes a prompt?"),
    ),
    (
        "Run pilotlight boot.",
        ("How do I measure the boot?", "Why was the boot slow?", "How long does a boot take?"),
    ),
    (
        "Run pilotlight bake SRC OUT.",
        ("How do I bake a model?", "How can I bake weights?", "Which command bakes a folder?"),
    ),
    (
        "Run pilotlight verify DIR.",
        ("How do I verify a baked folder?", "How can I check the manifest?", "Is my baked folder good?"),
    ),
    (
        "Run pilotlight doctor.",
        ("How do I check my machine?", "What does my machine lack?", "Which command finds problems?"),
    ),
    (
        "Run pilotlight up.",
        ("How do I test the endpoint at home?", "How can I run the endpoint here?", "How do I try workers here?"),
    ),
    (
        "Run pilotlight bill report.",
        ("How do I read the bill?", "Where did the money go?", "Which command shows the cost?"),
    ),
    (
        "Run pilotlight warm run.",
        ("How do I keep a worker warm?", "How can I avoid cold starts?", "Which command warms workers?"),
    ),
    (
        "Run pilotlight plan MODEL.",
        ("Will the model fit my GPU?", "How much memory does a model need?", "Which GPU should I take?"),
    ),
    (
        "Someone who pays for GPUs by the second and has bursty traffic.",
        ("Who uses Pilotlight?", "Who is Pilotlight for?", "Who needs Pilotlight?"),
    ),
    (
        "Keys and values are kept in pages of one size.",
        ("What is a paged KV cache?", "How is the cache kept?", "What are pages?"),
    ),
    (
        "In whole milliseconds, and each billed second is accounted for.",
        ("How is time billed?", "How is money counted?", "How do you count seconds?"),
    ),
    ("You are welcome.", ("Thank you!", "Thanks!", "Thank you very much!", "Many thanks!")),
    ("Goodbye!", ("Goodbye!", "Bye!", "See you!", "Bye bye!")),
)

OPENINGS: Final[tuple[str, ...]] = ("", "", "", "Please tell me: ", "Question: ", "Hi. ", "Quick question. ", "Hello, ")

ELSEWHERE: Final[tuple[str, ...]] = (
    "Tell me a joke.",
    "Write a poem about the sea.",
    "Who is the president?",
    "What is the meaning of life?",
    "Translate this into French.",
    "Sing a song.",
    "How old is the moon?",
    "Why is the sky blue?",
    "Write a story about a fox.",
    "Who wrote this book?",
    "What is the capital of France?",
    "How do I cook an egg?",
    "Explain physics to me.",
    "Write a program in Python.",
    "Do you like music?",
    "What is love?",
    "How tall is the tree?",
    "Where is my car?",
    "When does the bus come?",
    "Give me some advice.",
)
