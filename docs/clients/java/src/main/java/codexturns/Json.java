package codexturns;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;

/** Fields of JSON objects, by their type. All throw {@code JsonParseException} for what is missing or of another type. */
final class Json {
    static final Gson GSON = new GsonBuilder().disableHtmlEscaping().serializeNulls().create();

    private Json() {}

    static JsonElement any(JsonObject object, String name) {
        JsonElement value = object.get(name);
        if (value == null) throw new JsonParseException("there is no " + name);
        return value;
    }

    static boolean isText(JsonElement value) {
        return value != null && value.isJsonPrimitive() && value.getAsJsonPrimitive().isString();
    }

    static String text(JsonObject object, String name) {
        JsonElement value = any(object, name);
        if (!isText(value)) throw new JsonParseException(name + " is no string");
        return value.getAsString();
    }

    static String optionalText(JsonObject object, String name) {
        return isAbsent(object, name) ? null : text(object, name);
    }

    static JsonObject optionalObject(JsonObject object, String name) {
        return isAbsent(object, name) ? null : object.get(name).getAsJsonObject();
    }

    static Number number(JsonObject object, String name) {
        JsonElement value = any(object, name);
        if (!value.isJsonPrimitive() || !value.getAsJsonPrimitive().isNumber()) {
            throw new JsonParseException(name + " is no number");
        }
        return value.getAsNumber();
    }

    static boolean flag(JsonObject object, String name) {
        JsonElement value = any(object, name);
        if (!value.isJsonPrimitive() || !value.getAsJsonPrimitive().isBoolean()) {
            throw new JsonParseException(name + " is no boolean");
        }
        return value.getAsBoolean();
    }

    private static boolean isAbsent(JsonObject object, String name) {
        return !object.has(name) || object.get(name).isJsonNull();
    }
}
